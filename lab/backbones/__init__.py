"""docs/backbones.md: small models of other architectures, of the host's own classes, trained on the demo world."""
