# SPDX-License-Identifier: Apache-2.0
"""Where answers come from: endpoints, stored answers, classical baselines, a model of ours."""

from nlp.evaluation.backends.base import Backend, Refused, Retryable

__all__ = ["Backend", "Refused", "Retryable"]
