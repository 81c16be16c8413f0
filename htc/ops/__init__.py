"""Pure functions on tensors: boxes, anchors, matching, sampling, masks. They use no modules and no configuration."""
