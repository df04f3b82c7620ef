"""The parts of a report: each turns a study into sentences, tables and pictures."""
