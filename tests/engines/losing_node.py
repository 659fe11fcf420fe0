"""A program that answers rows on a Ray cluster of three nodes, one of which it kills. Prints what the rows became."""

import json
from collections import Counter

from llm_assets.engines import DummySettings, RayEngine, RaySettings
from llm_assets.records import Request, ScoreTokens
from tests.engines.ray_fixtures import slow

ROWS = 1500


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    engine = RayEngine(RaySettings(engine=DummySettings(), replicas=2, num_cpus=1, address=cluster.address), slow)
    found, errors = Counter[int](), 0
    for completion in engine.run(Request(number, [number % 200], ScoreTokens((7,))) for number in range(ROWS)):
        found[completion.id] += 1
        errors += completion.error is not None
        if sum(found.values()) == 300:
            # Not the one through which this process talks to the cluster, with which it would end.
            own = ray.get_runtime_context().get_node_id()
            cluster.remove_node(next(node for node in nodes if node.node_id != own), allow_graceful=False)
            cluster.add_node(num_cpus=1)
    assert engine._replicas is not None
    print(json.dumps({"whole": found == Counter(range(ROWS)), "errors": errors, "ready": len(engine._replicas.ready)}))
    engine.close()
    cluster.shutdown()


if __name__ == "__main__":
    main()
