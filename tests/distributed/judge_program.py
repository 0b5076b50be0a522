"""Asks the config's judge as one of several processes: python -m ... URL; prints the scores."""

import sys
from types import SimpleNamespace

from medscope_jax.distributed.multihost import join_processes
from medscope_jax.evaluate import judge_of

JUDGE = {"model": "odd", "timeout": 10.0, "concurrency": 2, "temperature": 0, "max_failed": 0.0}
ANSWERS = ("a lens", "a clip", "smoke", "two clips", "")


def main(url: str) -> None:
    join_processes(False)
    run = SimpleNamespace(config=SimpleNamespace(judge=JUDGE | {"url": url}))
    question = {"question": "What is it?", "answer": "lens", "task": "vqa", "evidence": []}
    print(judge_of(run)([question] * len(ANSWERS), ANSWERS), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
