# SPDX-License-Identifier: Apache-2.0
"""Subjective and personalised language processing.

`nlp.evaluation` measures language models on 25 tasks: prompts, answers, personalised few-shot,
metrics, reports. Run `python -m nlp.evaluate --help`.
"""

__all__: list[str] = []
