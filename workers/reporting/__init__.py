"""Reports: what a job found, as one HTML file, as Markdown for a pull request, and as JSON for programs."""
