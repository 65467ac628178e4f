"""What a training did: report.json for programs, report.html for people."""
