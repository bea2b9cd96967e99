"""Metrics of sounds: of clips whose events are known, of any, and the formulas of published ones on cached features."""
