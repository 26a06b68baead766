"""From measures to the verdict: arms, decisions, robustness, words."""
