"""The studies of the paper, each in the form in which a paper prints it: settings as columns, beside published rows."""
