"""The figures of a report, each one function of the study."""
