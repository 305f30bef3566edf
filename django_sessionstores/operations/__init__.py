"""What operators use: checks, doctor, statistics, telemetry."""
