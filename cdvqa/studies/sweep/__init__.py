"""`cdvqa sweep`: a study is read, becomes runs, and these are run somewhere."""
