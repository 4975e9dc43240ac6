"""Reports: tables, figures, verdicts and single questions, from run folders or from a study's records."""
