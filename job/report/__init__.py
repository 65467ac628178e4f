"""Report of a training: report.json for programs, report.html for users."""
