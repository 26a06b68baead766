"""Statistics of arms: contrasts between anchors, power, resampling."""
