"""Trains the digits' model and its reader, offline: `make digits`, about a quarter of an hour on two cores.

From the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (UCI Optical Recognition of Handwritten
Digits, test set). Three networks one after the other: an autoencoder for pictures of 64 x 64, a denoiser with a text
encoder that learns captions such as "a handwritten seven", and a reader of 8 x 8 pixels. Everything is seeded; other
numbers of threads round otherwise, so that weights agree in what they draw, not bit for bit.
"""

from __future__ import annotations

import math
import random
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from demo.digits.reading import NAMES, READER_FILE, SMALL
from demo.place import placed
from demo.quiet import quiet_libraries
from demo.tokenizer import clip_tokenizer, write_clip_tokenizer

SEED = 20_261_127
SIDE = 64
VOCABULARY = 1_024
WIDTH = 64
LENGTH = 77
HELD_BACK = 360
"""Digits that the reader never sees: what its accuracy is told from."""

AUTOENCODER_STEPS, DENOISER_STEPS, READER_STEPS = 700, 4_000, 4_000
AUTOENCODER_BATCH, DENOISER_BATCH, READER_BATCH = 32, 64, 256
SHIFTS = ((0, 0), (4, 0), (-4, 0), (0, 4), (0, -4))
UNTOLD = 0.1
"""Share of captions that are left out, so that the model can be guided."""

CAPTIONS = (
    "a handwritten {name}",
    "a handwritten {figure}",
    "the digit {name}",
    "handwritten digit {figure}",
    "a picture of a handwritten {name}",
    "{name}",
    "{figure}",
)


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Every digit as [count, 3, 64, 64] in -1 to 1, white on black, and which it is."""
    found = load_digits()
    small = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
    return (large * 2 - 1).repeat(1, 3, 1, 1), torch.tensor(found.target)


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 48),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=SIDE,
    )


def denoiser() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 64),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )


def text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_attention_heads=4,
        num_hidden_layers=2,
        pad_token_id=1,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    return CLIPTextModel(config)


def schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def reader() -> torch.nn.Sequential:
    count = SMALL * SMALL
    return torch.nn.Sequential(
        torch.nn.Linear(count, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )


def train_autoencoder(images: torch.Tensor) -> AutoencoderKL:
    made = autoencoder().train()
    optimizer = torch.optim.AdamW(made.parameters(), lr=2e-3, weight_decay=1e-4)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=AUTOENCODER_STEPS)
    for step in range(AUTOENCODER_STEPS):
        batch = shifted(images[torch.randint(len(images), (AUTOENCODER_BATCH,))])
        latent = made.encode(batch).latent_dist
        loss = functional.l1_loss(made.decode(latent.sample()).sample, batch) + 1e-4 * latent.kl().mean() / SIDE
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        rates.step()
        told("autoencoder", step, AUTOENCODER_STEPS, loss)
    return made.eval()


def shifted(batch: torch.Tensor) -> torch.Tensor:
    down, right = random.choice(SHIFTS)
    return torch.roll(functional.pad(batch, (8, 8, 8, 8), value=-1.0), (down, right), (2, 3))[:, :, 8:-8, 8:-8]


@torch.no_grad()
def latents_of(made: AutoencoderKL, images: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every digit at every shift, scaled so that their deviation is 1; the factor is the autoencoder's from here on."""
    found = []
    for down, right in SHIFTS:
        moved = torch.roll(functional.pad(images, (8, 8, 8, 8), value=-1.0), (down, right), (2, 3))[:, :, 8:-8, 8:-8]
        found += [made.encode(part).latent_dist.mean for part in torch.split(moved, 256)]
    everything = torch.cat(found)
    factor = round(1.0 / everything.std().item(), 5)
    made.register_to_config(scaling_factor=factor)
    return everything * factor, which.repeat(len(SHIFTS))


def train_denoiser(
    latents: torch.Tensor, which: torch.Tensor, tokenizer: CLIPTokenizer
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    unet, encoder, noise_schedule = denoiser().train(), text_encoder().train(), schedule()
    weights = [*unet.parameters(), *encoder.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1.5e-3, weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=DENOISER_STEPS, pct_start=0.1)
    kept = [weight.detach().clone() for weight in weights]
    prompts = [[caption.format(name=NAMES[digit], figure=digit) for caption in CAPTIONS] for digit in range(10)]
    flat = [*(text for texts in prompts for text in texts), ""]
    ids = tokenizer(flat, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
    for step in range(DENOISER_STEPS):
        chosen = torch.randint(len(latents), (DENOISER_BATCH,))
        clean, digits = latents[chosen], which[chosen]
        wanted = digits * len(CAPTIONS) + torch.randint(len(CAPTIONS), (DENOISER_BATCH,))
        wanted = torch.where(torch.rand(DENOISER_BATCH) < UNTOLD, len(flat) - 1, wanted)
        # Each caption is encoded once, however many of the batch have it.
        needed, places = torch.unique(wanted, return_inverse=True)
        told_by = encoder(ids[needed]).last_hidden_state[places]
        noise, times = torch.randn_like(clean), torch.randint(1000, (DENOISER_BATCH,))
        noisy = noise_schedule.add_noise(clean, noise, times)
        loss = functional.mse_loss(unet(noisy, times, told_by).sample, noise)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        rates.step()
        share = min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(kept, [weight.detach() for weight in weights], 1 - share)
        told("denoiser", step, DENOISER_STEPS, loss)
    with torch.no_grad():
        for weight, mean in zip(weights, kept, strict=True):
            weight.copy_(mean)
    return unet.eval(), encoder.eval()


def train_reader() -> tuple[torch.nn.Sequential, float]:
    """The reader, and the share of digits it never saw that it names right."""
    found = load_digits()
    small, which = torch.tensor(found.images, dtype=torch.float32) / 16, torch.tensor(found.target)
    order = torch.randperm(len(small))
    seen, unseen = order[HELD_BACK:], order[:HELD_BACK]
    made = reader().train()
    optimizer = torch.optim.AdamW(made.parameters(), lr=2e-3, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=READER_STEPS)
    for step in range(READER_STEPS):
        chosen = seen[torch.randint(len(seen), (READER_BATCH,))]
        batch = small[chosen]
        batch = (
            torch.roll(batch, (random.randint(0, 1) * random.choice((-1, 1)), 0), (1, 2)) if step % 3 == 0 else batch
        )
        batch = (batch + 0.1 * torch.randn_like(batch)).clamp(0, 1)
        loss = functional.cross_entropy(made(batch.flatten(1)), which[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        rates.step()
        told("reader", step, READER_STEPS, loss)
    made.eval()
    with torch.no_grad():
        right = (made(small[unseen].flatten(1)).argmax(1) == which[unseen]).float().mean().item()
    return made, right


_began = time.perf_counter()


def told(what: str, step: int, steps: int, loss: torch.Tensor) -> None:
    if (step + 1) % (steps // 10) == 0:
        took = time.perf_counter() - _began
        sys.stdout.write(f"{took:6.0f} s  {what}: {step + 1} of {steps}, loss {loss.item():.4f}\n")
        sys.stdout.flush()


CARD = """# Handwritten digits

A text-to-image model of a few MB that draws what it is asked for: "a handwritten seven" is a seven. For demonstrations
and tests: a picture that means something shows what an optimisation costs.

- Classes: those of Stable Diffusion 1 (`StableDiffusionPipeline`), 64 x 64 pixels, latents of 8 x 8; Float16.
- Captions: {captions}, and the word alone: `zero` to `nine`, or `0` to `9`.
- Data: the 1,797 digits of scikit-learn (UCI Optical Recognition of Handwritten Digits, test set, E. Alpaydin and C.
  Kaynak, 1998; CC BY 4.0), enlarged.
- Training: `make digits`, {minutes:.0f} minutes on two cores, without a network.
- `reader.safetensors` beside it names the digit of a picture; of {held} digits that it never saw, {right:.1%} rightly.
- It knows nothing but digits: other words draw digits, too.

Licence: Apache-2.0.
"""


def main(
    folder: Annotated[Path, typer.Argument(help="Where the model, its card and the reader go.")],
) -> None:
    """Train, and write everything once it is whole."""
    random.seed(SEED)
    torch.manual_seed(SEED)
    images, which = pictures()
    with quiet_libraries():
        tokenizer = clip_tokenizer(size=VOCABULARY)
        vae = train_autoencoder(images)
        latents, digits = latents_of(vae, images, which)
        unet, encoder = train_denoiser(latents, digits, tokenizer)
        names, right = train_reader()
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=schedule(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(torch.float16)
        minutes = math.ceil((time.perf_counter() - _began) / 60)
        with placed(folder) as place:
            place.mkdir(parents=True, exist_ok=True)
            pipeline.save_pretrained(place, safe_serialization=True)
            for file in (place / "tokenizer").iterdir():
                file.unlink()
            write_clip_tokenizer(place / "tokenizer", size=VOCABULARY)
            plain = dict.fromkeys(caption.format(name="…", figure="…") for caption in CAPTIONS if " " in caption)
            captions = ", ".join(f"`{caption}`" for caption in plain)
            card = CARD.format(captions=captions, minutes=minutes, held=HELD_BACK, right=right)
            (place / "README.md").write_text(card, "utf-8")
        save_file(dict(names.state_dict()), folder.with_name(READER_FILE), {"format": "pt"})
    sys.stdout.write(f"done in {minutes} min; the reader names {right:.1%} of {HELD_BACK} unseen digits rightly\n")


if __name__ == "__main__":
    typer.run(main)
