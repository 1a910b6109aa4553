# SPDX-License-Identifier: Apache-2.0
"""Spiking speech recognition: an RNN transducer made of the cells of `snn`."""

__all__: list[str] = []
