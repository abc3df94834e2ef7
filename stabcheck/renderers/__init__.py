"""One file per output format: `render(report, ...) -> str`. A renderer knows the Report and nothing else."""
