"""Reads a scrape with Prometheus' own library, and tells what it understood.  Usage: read_metrics.py URL"""

import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from report import tell

DEADLINE_SECONDS = 20


def main(url: str) -> None:
    with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as answer:
        kind, text = answer.headers["content-type"], answer.read().decode()
    families = {}
    # A strict parser: a family that comes twice, a sample out of place or a missing end is an error.
    for family in text_string_to_metric_families(text):
        samples = [{"name": sample.name, "labels": sample.labels, "value": sample.value} for sample in family.samples]
        families[family.name] = {"type": family.type, "help": family.documentation, "samples": samples}
    tell({"content_type": kind, "families": families})


main(sys.argv[1])
