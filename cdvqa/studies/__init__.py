"""Many runs: jobs, tables, figures and reports."""
