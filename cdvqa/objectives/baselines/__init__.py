"""Published debiasing methods that the paper compares with, or that came after it; one file each."""
