"""What a type checker makes of a program that uses the faces: read by ``mypy --strict`` (``make types``), never run."""

from concurrent.futures import Future, as_completed
from typing import Any, Dict, Iterator, List

from typing_extensions import assert_type

from minimalcluster import ClusterExecutor, MasterNode, Pool, TaskError


def scale(x: int, factor: float, shift: float = 0.0) -> float:
    return x * factor + shift


def length(text: str) -> int:
    return len(text)


def executor() -> None:
    with ClusterExecutor(2) as ex:
        future = ex.submit(scale, 3, 0.5, shift=1.0)
        assert_type(future.result(), float)
        plain: Future[float] = future
        for done in as_completed([plain]):
            assert_type(done.result(), float)
        assert_type(list(ex.map(length, ["a", "bc"])), List[int])
        results: Iterator[int] = ex.map_unordered(length, ["a"])
        assert_type(next(results), int)
        ex.submit(scale, "3", 0.5)  # type: ignore[arg-type] # the checker sees a wrong argument
        ex.submit(scale)  # type: ignore[call-arg]


async def later() -> None:
    async with ClusterExecutor() as ex:
        assert_type(await ex.run(length, "abc"), int)


def pool() -> None:
    with Pool(2) as workers:
        assert_type(workers.map(length, ["a"]), List[int])
        assert_type(workers.apply(scale, (1, 2.0)), float)
        assert_type(workers.apply_async(length, ("a",)).get(timeout=1.0), int)


def master() -> None:
    with MasterNode(PORT=0) as node:
        try:
            found: Dict[object, object] = node.execute()
        except TaskError as error:
            found = error.results
        print(found)
        assert_type(node.status().workers, Any)
