"""The catalogue: a worker without a device that knows every model. No torch, and never the broker's business."""
