"""What people and programs read about a growth: tables, sentences and the report file. Pure functions of plain data."""

from __future__ import annotations

from onnxgrow.report.document import Subject, document, dumps, write_json
from onnxgrow.report.tables import evidence_table, growth_table, inspection_lines, inspection_table, skipped_lines
from onnxgrow.report.words import conclusion, refusal

__all__ = [
    "Subject",
    "conclusion",
    "document",
    "dumps",
    "evidence_table",
    "growth_table",
    "inspection_lines",
    "inspection_table",
    "refusal",
    "skipped_lines",
    "write_json",
]
