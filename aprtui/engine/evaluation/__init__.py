"""How good the verdicts are: detection of planted faults, false alarms on honest engines."""
