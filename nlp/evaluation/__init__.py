# SPDX-License-Identifier: Apache-2.0
"""Evaluation of language models over 25 tasks (arXiv 2302.10724) and tasks of your own.

    catalogue = tasks.catalogue()
    corpus = loaders.load(catalogue["spam"])
    request = tasks.request(catalogue["spam"], corpus.test[0])
    units = tasks.parse(catalogue["spam"], corpus.test[0], '["spam"]')

`python -m nlp.evaluate --config=configs/nlp/FILE.py --workdir=DIR` does it all.
"""

from nlp.evaluation import labels, loaders, metrics, parsing, prompts, records, tasks

__all__ = ["labels", "loaders", "metrics", "parsing", "prompts", "records", "tasks"]
