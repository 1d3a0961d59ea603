"""Commands around the pipeline: recipes, comparisons of revisions, generated pages, a check of the results."""
