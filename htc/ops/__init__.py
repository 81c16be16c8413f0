"""Pure functions on tensors: boxes, anchors, matching, sampling, masks. No modules, no configuration."""
