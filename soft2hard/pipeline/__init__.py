"""One recipe, all stages: corpora, translator, evaluation, transfer, report (`soft2hard run`)."""
