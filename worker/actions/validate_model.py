"""`validate_model`: whether files are whole and safe, and what this device can do with them.

Basic looks at headers and configurations, standard also at samples of the weights, comprehensive at every value, at the
shapes that the parts' classes ask for, and at digests. Nothing is loaded, and nobody is evicted.
"""

from __future__ import annotations

from pathlib import Path

from modelfiles.model import Kind, ModelFile
from modelfiles.modes import family_of
from modelfiles.paths import named
from protocol import commands as c
from protocol.enums import ValidationLevel
from protocol.errors import invalid
from protocol.records import ModelLoadConfiguration, ModelValidationResults, ValidationResult
from protocol.replies import ValidateModelReply
from worker.engine import Engine, common
from worker.job import Job
from worker.loading import assigned_model
from worker.options import resolve
from worker.validation.files import FileChecks
from worker.validation.findings import Findings
from worker.validation.fitness import NOT_ASKED, Fitness, score
from worker.validation.outlook import Outlook, need_of, outlook

UNKNOWN = ValidationResult(message="the files could not be understood")


def validate_model(engine: Engine, job: Job, command: c.ValidateModel) -> ValidateModelReply:
    """Look, and answer; a model that fails is an answer too. Raises Fault for a command that makes no sense."""
    ref = assigned_model(job, command.model_id)
    _check_path(engine, command, ref.path)
    findings = Findings()
    checks = FileChecks(engine, job, findings)
    file = checks.inspect(ref.path, "model_path")
    checks.compare(command.file_validation_context, command.model_type, file)
    if file is None:
        return _reply(job, command, findings, ModelValidationResults(), None, is_compatible=False)
    config_path = ref.config_path
    checks.fit(file, config_path)
    _look_within(engine, checks, file, config_path, command.validation_level)
    return _judged(engine, job, command, findings, file)


def _check_path(engine: Engine, command: c.ValidateModel, path: str) -> None:
    """Raise Fault INVALID_ARGUMENT where the id is one model's and the path another's."""
    if not command.model_path or command.model_path == path:
        return
    sent = Path(command.model_path)
    if str(named(sent, engine.roots.resolve(command.model_path))) != path:
        raise invalid("model_path", command.model_path, f"{path}, the file of {command.model_id}")


def _look_within(engine: Engine, checks: FileChecks, file: ModelFile, config_path: str, level: ValidationLevel) -> None:
    if level is ValidationLevel.BASIC or file.kind is Kind.VIRTUAL:
        return
    whole = level is ValidationLevel.COMPREHENSIVE
    checks.finite(file, whole=whole)
    checks.digests(file, engine.digests, make=whole)
    if whole and family_of(file) is not None:
        resolved = resolve(ModelLoadConfiguration(), file, engine.device, "", config_path)
        checks.shapes(file, resolved, config_path)


def _judged(
    engine: Engine, job: Job, command: c.ValidateModel, findings: Findings, file: ModelFile
) -> ValidateModelReply:
    """What this device has to say of files that could be understood."""
    resident = engine.cache.get(command.model_id) if command.model_id else None
    if resident is not None and resident.file.path != file.path:
        resident = None
    if resident is not None:
        resolved = resident.resolved
    else:
        resolved = resolve(ModelLoadConfiguration(), file, engine.device, command.model_id)
    need = need_of(file, resident, resolved)
    fitness = Fitness(engine, file, command.model_id, resolved, need)
    platform = fitness.platform()
    memory = fitness.memory(findings) if command.check_memory else NOT_ASKED
    results = ModelValidationResults(
        memory_validation=memory,
        compute_validation=fitness.compute() if command.check_compute else NOT_ASKED,
        driver_validation=fitness.driver() if command.check_driver else NOT_ASKED,
        platform_validation=platform,
        feature_validations=fitness.features(),
    )
    parts = (memory, results.compute_validation, results.driver_validation, platform)
    compatible = findings.sound and all(part.passed for part in parts)
    expected = outlook(engine, file, resident, resolved, need) if command.estimate_performance else None
    return _reply(job, command, findings, results, expected, is_compatible=compatible)


def _reply(
    job: Job,
    command: c.ValidateModel,
    findings: Findings,
    results: ModelValidationResults,
    expected: Outlook | None,
    *,
    is_compatible: bool,
) -> ValidateModelReply:
    asked = {"platform", *(name for name in ("memory", "compute", "driver") if getattr(command, f"check_{name}"))}
    details = {"level": command.validation_level.value, **findings.details}
    not_measured = {}
    if expected is not None:
        details["performance"] = expected.basis
        not_measured = expected.not_measured
    count = len(findings.issues)
    found = f"{count} issue{'s' if count != 1 else ''}" if count else "nothing to object to"
    verdict = "valid and fits" if is_compatible else "valid" if findings.sound else "not valid"
    return ValidateModelReply(
        **{**common(job), "model_id": command.model_id},
        message=f"{command.model_id or Path(command.model_path).name} is {verdict}: {found}",
        is_valid=findings.sound,
        validation_details=details,
        issues=findings.issues,
        is_compatible=is_compatible,
        validation_results=results,
        compatibility_score=score(results, asked, sound=findings.sound),
        performance_estimation=expected.estimation if expected is not None else None,
        recommendations=findings.recommendations,
        not_measured=not_measured,
    )
