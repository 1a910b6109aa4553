# SPDX-License-Identifier: Apache-2.0
"""The report of a run: summary.md, report.html, table.csv and figures, from results.json only."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core import files
from nlp.evaluation import figures, stats

Results = Mapping[str, Any]
Row = Sequence[str]


def write(workdir: str) -> str:
    """Writes the report next to results.json; returns the main table as text.

    Raises:
      FileNotFoundError: there are no results.
      ValueError: results of another format.
    """
    folder = Path(workdir)
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no results.json; run the evaluation first")
    results = json.loads(path.read_text(encoding="utf-8"))
    if results.get("schema") != 1:
        raise ValueError(f"{path} has format {results.get('schema')!r}, expected 1")
    pictures = figures.write_all(results, folder / "figures")
    text = markdown(results, pictures)
    files.write_text(folder / "summary.md", text)
    files.write_text(folder / "report.html", page(text))
    files.write_text(folder / "table.csv", _csv(results))
    return _main_table(results)


def markdown(results: Results, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The report as Markdown."""
    parts = [
        "# Evaluation",
        f"Policy for unusable answers: **{results['policy']}**. Intervals: 95 % bootstrap over"
        f" texts, {results['resamples']} resamples. Coverage: share of the questions with a usable"
        " answer. Questions that were never answered are in no score.",
        "## Scores",
        _main_table(results),
        "## Policies",
        "The same answers under the three policies (main metric, %).",
        _policy_table(results),
    ]
    if any(e["published"]["sota"] for e in results["tasks"]):
        parts += [
            "## Loss against the published state of the art",
            "Loss = 100 (SOTA - model) / SOTA. Published values come from the study's code unless"
            " marked m (recalled, not checked). Samples and prompts differ from the study's.",
            _loss_table(results),
        ]
    parts += ["## Labels", "Said / gold above 1: the label is over-used.", _class_table(results)]
    if any(g.get("n") for g in results["gains"]):
        parts += [
            "## Personalisation gain",
            "Over no examples, on the same questions. Points: percentage points. Normalised:"
            " 100 (P - N) / (100 - N).",
            _gain_table(results),
        ]
    if any("personal" in s for e in results["tasks"] for s in e["systems"].values()):
        parts += ["## Pooled and per annotator", _personal_table(results)]
    parts += ["## Answer shapes", _shape_table(results), "## Tokens and cost", _cost_table(results)]
    if results["comparisons"]:
        parts += ["## Comparison of models", comparison_table(results["comparisons"])]
    if pictures:
        parts.append("## Figures")
        parts += [f"![{caption}](figures/{name})\n\n*{caption}*" for name, caption in pictures]
    return "\n\n".join(parts) + "\n"


# --- tables --------------------------------------------------------------------------------------


def _table(header: Row, rows: Sequence[Row]) -> str:
    safe = lambda cell: re.sub(r"[|\n\r]", " ", cell)
    lines = ["| " + " | ".join(map(safe, row)) + " |" for row in (header, *rows)]
    rule = "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(header))) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _interval(value: Mapping[str, float]) -> str:
    return f"{100 * value['value']:.2f} [{100 * value['low']:.2f}, {100 * value['high']:.2f}]"


def _systems(entry: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Models first, then baselines."""
    return sorted(entry["systems"].items(), key=lambda pair: pair[1]["kind"] != "model")


def _main_rows(results: Results) -> list[list[str]]:
    rows = []
    for entry in results["tasks"]:
        for name, system in _systems(entry):
            failed = system["asked"] - system["answered"]
            rows.append([
                entry["name"] + (" *" if entry["oracle_k"] else ""),
                name if system["kind"] == "model" else f"{name} (baseline)",
                entry["metric"],
                _interval(system["metrics"][entry["metric"]]),
                str(system["asked"]),
                str(failed),
                f"{100 * system['coverage']:.1f}",
                f"{100 * system['invalid'] / max(1, system['asked']):.1f}",
            ])  # fmt: skip
    return rows


_MAIN = ("task", "system", "metric", "% [95 %]", "asked", "not answered", "coverage %", "invalid %")


def _main_table(results: Results) -> str:
    note = ""
    if any(e["oracle_k"] for e in results["tasks"]):
        note = "\n\n\\* the prompt tells the true number of labels"
    return _table(_MAIN, _main_rows(results)) + note


def _csv(results: Results) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["task", "system", "kind", "metric", "value", "low", "high", "asked", "answered", "scored",
         "coverage", "invalid", "sota", "cost"]
    )  # fmt: skip
    for entry in results["tasks"]:
        for name, system in _systems(entry):
            for metric, value in system["metrics"].items():
                writer.writerow(
                    [entry["id"], name, system["kind"], metric, value["value"], value["low"],
                     value["high"], system["asked"], system["answered"], system["scored"],
                     system["coverage"], system["invalid"], entry["published"]["sota"],
                     system.get("usage", {}).get("cost", "")]
                )  # fmt: skip
    return out.getvalue()


def _policy_table(results: Results) -> str:
    rows = []
    for entry in results["tasks"]:
        for name in figures.models(results):
            policies = entry["systems"][name]["policies"]
            values = [f"{100 * policies[p][entry['metric']]['value']:.2f}" for p in policies]
            rows.append([entry["name"], name, *values])
    return _table(("task", "model", "strict", "drop", "ignore unknown"), rows)


def _loss_table(results: Results) -> str:
    rows = []
    for entry in results["tasks"]:
        published = entry["published"]
        if not published["sota"]:
            continue
        mark = lambda source: " m" if source == "memory" else ""
        study = "-"
        if published["model"]:
            study = f"{published['model']:.2f}{mark(published['model_source'])}"
            study += f" ({stats.loss(published['sota'], published['model']):.1f})"
        for name in figures.models(results):
            rows.append([
                entry["name"], name, f"{published['sota']:.2f}{mark(published['sota_source'])}",
                f"{100 - published['sota']:.2f}", study,
                f"{100 * entry['systems'][name]['metrics'][entry['metric']]['value']:.2f}",
                f"{figures.task_loss(entry, name):.2f}",
            ])  # fmt: skip
    header = ("task", "model", "SOTA", "difficulty", "ChatGPT then (loss)", "score", "loss %")
    text = _table(header, rows)
    for name in figures.models(results):
        own = [e for e in results["tasks"] if e["published"]["sota"]]
        values = [figures.task_loss(e, name) for e in own]
        line = figures.fit([100 - e["published"]["sota"] for e in own], values)
        text += f"\n\n{name}: mean loss {sum(values) / len(values):.2f} %"
        if line:
            text += f"; loss = {line[0]:.3f} difficulty + {line[1]:.2f}, R² {line[2]:.3f}"
    return text


def _class_table(results: Results) -> str:
    rows = []
    for entry in results["tasks"]:
        for name in figures.models(results):
            for c in entry["systems"][name].get("classes", ()):
                ratio = f"{c['predicted'] / c['gold']:.2f}" if c["gold"] else "-"
                rows.append([
                    entry["name"], name, c["label"], f"{c['gold']:.0f}", f"{c['predicted']:.0f}",
                    ratio, *(f"{100 * c[k]:.1f}" for k in ("precision", "recall", "f1")),
                ])  # fmt: skip
    header = ("task", "model", "label", "gold", "said", "said / gold", "precision", "recall", "F1")
    return _table(header, rows)


def _gain_table(results: Results) -> str:
    rows = []
    for g in results["gains"]:
        if not g.get("n"):
            continue
        for kind in ("pooled", "per_annotator"):
            v = g[kind]
            rows.append([
                g["task"], g["model"], str(g["shots"]), kind.replace("_", " "),
                f"{v['general']:.2f}", f"{v['personal']:.2f}",
                f"{v['points']:+.2f} [{v['low']:+.2f}, {v['high']:+.2f}]",
                f"{v['normalised']:+.2f}", str(g["n"]), str(g["annotators"]),
            ])  # fmt: skip
    header = ("task", "model", "shots", "score", "general", "personal", "points [95 %]",
              "normalised", "n", "annotators")  # fmt: skip
    return _table(header, rows)


def _personal_table(results: Results) -> str:
    rows = [
        [entry["name"], name, entry["metric"], _interval(system["metrics"][entry["metric"]]),
         _interval(system["personal"][entry["metric"]]), str(system["personal"]["annotators"])]
        for entry in results["tasks"]
        for name, system in _systems(entry)
        if "personal" in system and system["personal"]["annotators"]
    ]  # fmt: skip
    return _table(("task", "system", "metric", "pooled", "mean of annotators", "annotators"), rows)


def _shape_table(results: Results) -> str:
    rows = []
    for entry in results["tasks"]:
        for name in figures.models(results):
            s = entry["systems"][name]
            counts = lambda values: ", ".join(f"{k} {v}" for k, v in values.items()) or "-"
            rows.append([entry["name"], name, counts(s["statuses"]), counts(s["extractors"]),
                         counts({k: v for k, v in s["responses"].items() if k != "ok"}),
                         str(s["excess"])])  # fmt: skip
    header = ("task", "model", "readability", "read by", "not answered", "more labels than asked")
    return _table(header, rows)


def _cost_table(results: Results) -> str:
    rows = []
    for entry in results["tasks"]:
        for name in figures.models(results):
            u = entry["systems"][name]["usage"]
            guess = f" ({u['estimated']} estimated)" if u["estimated"] else ""
            said = f"{u['completion_tokens']}{guess}"
            rows.append([entry["name"], name, f"{u['prompt_tokens']}", said, u["cost"]])
    return _table(("task", "model", "prompt tokens", "answer tokens", "cost"), rows)


def comparison_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Second minus first in the main metric, with tests on the same questions."""
    rows = [
        [c["task"], c["first"], c["second"],
         f"{100 * c['difference']:+.2f} [{100 * c['low']:+.2f}, {100 * c['high']:+.2f}]",
         f"{c['p']:.4f}", f"{c['p_holm']:.4f}", f"{c['mcnemar']:.4f}", str(c["n"])]
        for c in found
    ]  # fmt: skip
    header = ("task", "first", "second", "second - first, points [95 %]", "p", "p (Holm)",
              "McNemar p", "n")  # fmt: skip
    return _table(header, rows)


# --- HTML ----------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .6em; text-align: right; }
th:first-child, td:first-child, td:nth-child(2) { text-align: left; }
th { border-bottom: 2px solid #888; } img { max-width: 100%; } em { color: #555; }
div.wide { overflow-x: auto; }
"""


def page(text: str) -> str:
    """HTML of the Markdown that this module writes (headings, tables, pictures, paragraphs)."""
    body = "\n".join(_block(block) for block in re.split(r"\n{2,}", text.strip()))
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>Evaluation</title>"
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " img-src 'self' data: file:; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style>\n<body>\n{body}\n</body></html>\n"
    )


def _block(block: str) -> str:
    if match := re.fullmatch(r"(#{1,3}) (.*)", block):
        level = len(match.group(1))
        return f"<h{level}>{html.escape(match.group(2))}</h{level}>"
    if match := re.fullmatch(r"!\[(.*)\]\((figures/[\w.\-]+)\)", block):
        return f'<img src="{match.group(2)}" alt="{html.escape(match.group(1), quote=True)}">'
    if block.startswith("| "):
        lines = [
            line[2:-2].split(" | ") for line in block.split("\n") if not line.startswith("|---")
        ]
        head, *rows = [line for line in lines if set("".join(line)) - set("-: |")]
        cell = lambda name, values: "".join(f"<{name}>{html.escape(v)}</{name}>" for v in values)
        rest = "\n".join(f"<tr>{cell('td', row)}</tr>" for row in rows)
        return f"<div class=wide><table><tr>{cell('th', head)}</tr>\n{rest}</table></div>"
    escaped = html.escape(block.removeprefix("\\"), quote=False)
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escaped)
    if match := re.fullmatch(r"\*([^*]+)\*", escaped):
        return f"<p><em>{match.group(1)}</em></p>"
    return f"<p>{escaped}</p>"
