"""Corpora: many synthetic slides in a folder that explains itself.

`plan` decides what each slide is, `slides` makes one, `engine` has many made by processes or by Ray, and
`manifest` and `card` describe what is there. `dataset` reads a corpus,
`labels` outlines its tissue and nuclei, and `export` turns it into patches.
"""
