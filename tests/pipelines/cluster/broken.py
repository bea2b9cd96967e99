"""Small mistakes in the shipped cluster files: what is written instead, on which line, and what is to be told of it."""

from __future__ import annotations

from pipelines.cluster.ray_schema import ray_version

IMAGE = f"ghcr.io/somebody/lumina-video@sha256:{'0123456789abcdef' * 4}"

Edit = tuple[str, str]
"""A text, and what takes its place once."""

BROKEN_LAUNCHERS: list[tuple[str, Edit, str, str]] = [
    (
        "unknown top key",
        ("idle_timeout_minutes:", "idle_timeout_minute:"),
        "idle_timeout_minute:",
        "idle_timeout_minute: unknown key; did you mean idle_timeout_minutes?",
    ),
    (
        "unknown key of a node type",
        ("    min_workers: 0", "    minimum_workers: 0"),
        "minimum_workers",
        "available_node_types.curation.minimum_workers: unknown key; did you mean min_workers?",
    ),
    (
        "provider typo",
        ("cache_stopped_nodes:", "cache_stoped_nodes:"),
        "cache_stoped_nodes",
        "provider.cache_stoped_nodes: unknown key; did you mean cache_stopped_nodes?",
    ),
    ("no such provider", ("type: aws", "type: awz"), "type: awz", "Ray knows no provider awz; did you mean aws?"),
    ("no region", ("  region: us-west-2\n", ""), "provider:", "region is missing: add it below provider, such as"),
    (
        "zone elsewhere",
        ("availability_zone: us-west-2a", "availability_zone: us-east-1a"),
        "availability_zone",
        "us-east-1a is not in the region us-west-2",
    ),
    (
        "placeholder",
        ("cluster_name: lumina-video", "cluster_name: <your cluster>"),
        "cluster_name",
        "cluster_name: <your cluster> is a placeholder: write what belongs here",
    ),
    (
        "tag in place of a digest",
        (IMAGE, "ghcr.io/somebody/lumina-video:latest"),
        "  image:",
        "docker.image: ghcr.io/somebody/lumina-video:latest is not named by digest: write NAME@sha256:...",
    ),
    (
        "another Ray in the image",
        (IMAGE, f"rayproject/ray:2.9.3-py311@{IMAGE.partition('@')[2]}"),
        "  image:",
        f"docker.image: the image has Ray 2.9.3, and this is for Ray {ray_version()}",
    ),
    (
        "another Ray installed",
        ("setup_commands: []", "setup_commands: ['pip install \"ray[default]==2.9.3\"']"),
        "setup_commands:",
        f"setup_commands[0]: this installs Ray 2.9.3, and this is for Ray {ray_version()}",
    ),
    (
        "whichever Ray is newest",
        ("setup_commands: []", "setup_commands: [pip install -U ray]"),
        "setup_commands:",
        f"this installs whichever Ray is the newest: write ray=={ray_version()}",
    ),
    ("Ray's own set-up", ("setup_commands: []\n", ""), "cluster_name: lumina", "add setup_commands: []"),
    (
        "GPUs as text",
        ("GPU: 8}", 'GPU: "8"}'),
        "CPU: 192",
        "available_node_types.training.resources.GPU: expected a "
        "whole number, got the text '8': write 8 without quotes",
    ),
    (
        "least over most",
        ("    min_workers: 0\n    max_workers: 8", "    min_workers: 9\n    max_workers: 8"),
        "min_workers: 9",
        "at least 9 nodes of curation, but at most 8",
    ),
    (
        "more than in all",
        ("    min_workers: 0\n    max_workers: 8", "    min_workers: 13\n    max_workers: 14"),
        "max_workers: 12",
        "max_workers: 12 nodes at most, but the node types want 13 at least: raise it to 13",
    ),
    (
        "head with GPUs",
        ("resources: {CPU: 2}", "resources: {CPU: 2, GPU: 1}"),
        "CPU: 2, GPU: 1",
        "available_node_types.head.resources.GPU: the head has 1 GPU",
    ),
    (
        "no such head",
        ("head_node_type: head", "head_node_type: main"),
        "head_node_type",
        "main is none of the node types; there are head, curation, training",
    ),
    (
        "a pool that nothing uses",
        ("    max_workers: 8", "    max_workers: 0"),
        "max_workers: 0",
        "curation never has a node, since it may have 0 at most",
    ),
    (
        "no time to stop",
        ("RAY_JOB_STOP_WAIT_TIME_S=120 ray start --head", "ray start --head"),
        "  - >-",
        "RAY_JOB_STOP_WAIT_TIME_S is not set, so stopped jobs are killed after 3 s",
    ),
    (
        "a password",
        ("--ulimit nofile=65536:65536", "-e MLFLOW_TRACKING_PASSWORD=hunter2"),
        "hunter2",
        "MLFLOW_TRACKING_PASSWORD stands here for everybody to read",
    ),
    (
        "no token wanted",
        ("RAY_AUTH_MODE=token RAY_JOB", "RAY_JOB"),
        "  - >-",
        "whoever reaches this node's ports would run commands there: write RAY_AUTH_MODE=token before ray start",
    ),
    (
        "tokens switched off",
        ("RAY_AUTH_MODE=token RAY_JOB", "RAY_AUTH_MODE=disabled RAY_JOB"),
        "  - >-",
        "write RAY_AUTH_MODE=token before ray start",
    ),
    (
        "the token itself",
        ("RAY_AUTH_MODE=token RAY_JOB", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0123abc RAY_JOB"),
        "  - >-",
        "RAY_AUTH_TOKEN stands here for everybody to read",
    ),
    (
        "no token given",
        ("/home/lumina/.ray/auth_token: ~/.ray/auth_token", "/home/lumina/notes: ~/notes"),
        "file_mounts:",
        "the nodes get no token: add /home/lumina/.ray/auth_token: ~/.ray/auth_token below file_mounts",
    ),
    ("a key twice", ("upscaling_speed: 1.0", "max_workers: 4"), "max_workers: 4", "this key stands in line"),
    ("no resources", ("    resources: {CPU: 192, GPU: 8}\n", ""), "  training:", "resources is missing"),
]


BROKEN_JOBS: list[tuple[str, Edit, str, str]] = [
    ("unknown field", ("backoffLimit: 2 ", "backOffLimit: 2 "), "backOffLimit", "did you mean backoffLimit?"),
    ("unknown field of a container", ("envFrom: &secrets", "envfrom: &secrets"), "envfrom", "did you mean envFrom?"),
    (
        "number for text",
        ('num-cpus: "2"', "num-cpus: 2"),
        "num-cpus",
        'expected text, got the number 2: write "2" in quotes',
    ),
    (
        "mode",
        ("submissionMode: K8sJobMode", "submissionMode: K8JobMode"),
        "submissionMode",
        "got the text 'K8JobMode'; did you mean K8sJobMode?",
    ),
    (
        "another Ray",
        ('rayVersion: "2.60.0"', 'rayVersion: "2.46.0"'),
        "rayVersion",
        f"this is for Ray {ray_version()}, not 2.46.0",
    ),
    (
        "tag in place of a digest",
        (IMAGE, "rayproject/ray:nightly"),
        "rayproject/ray:nightly",
        "the image has Ray nightly",
    ),
    (
        "least over most",
        ("minReplicas: 0\n        maxReplicas: 8", "minReplicas: 9\n        maxReplicas: 8"),
        "minReplicas: 9",
        "at least 9 nodes of curation, but at most 8",
    ),
    ("no end of nodes", ("        maxReplicas: 8\n", ""), "- groupName: curation", "maxReplicas is missing"),
    (
        "head with GPUs",
        ('limits: {cpu: "4", memory: 16Gi}', 'limits: {cpu: "4", nvidia.com/gpu: 1}'),
        "headGroupSpec",
        "the head has 1 GPU",
    ),
    (
        "GPUs that are not there",
        ("nvidia.com/gpu: 8}", "nvidia.com/gpu: 4}"),
        "nvidia.com/gpu: 4",
        "Ray would hand out 8 GPUs, but the container gets 4: write nvidia.com/gpu: 8",
    ),
    (
        "driver on a GPU",
        ("entrypointNumCpus: 1", "entrypointNumCpus: 1\n  entrypointNumGpus: 1"),
        "entrypointNumGpus",
        "would keep a GPU from training",
    ),
    ("another job each time", ("  jobId: lumina-paper\n", ""), "spec:", "jobId is missing"),
    (
        "never shut down",
        ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false"),
        "ttlSecondsAfterFinished",
        "write shutdownAfterJobFinishes: true",
    ),
    (
        "a password",
        ("env: &env\n", "env: &env\n                - {name: HF_TOKEN, value: hf_x}\n"),
        "HF_TOKEN, value",
        "HF_TOKEN stands here for everybody to read",
    ),
    (
        "no token wanted",
        ("    authOptions: {mode: token}\n", ""),
        "rayClusterSpec:",
        "whoever reaches the head's ports would run commands there: add authOptions: {mode: token}",
    ),
    (
        "tokens switched off",
        ("authOptions: {mode: token}", "authOptions: {mode: disabled}"),
        "authOptions",
        "add authOptions: {mode: token}",
    ),
    (
        "the token itself",
        ("env: &env\n", "env: &env\n                - {name: RAY_AUTH_TOKEN, value: 0123abc}\n"),
        "RAY_AUTH_TOKEN, value",
        "RAY_AUTH_TOKEN stands here for everybody to read",
    ),
    (
        "no such volume",
        ("- name: store\n", "- name: stores\n"),
        "- {name: store, mountPath",
        "the pod has no volume store; it has stores, shm",
    ),
    (
        "store that is not mounted",
        ("--store /shared/runs", "--store /data/runs"),
        "volumeMounts: &mounts",
        "the head does not mount the store /data/runs; it mounts /shared, /dev/shm",
    ),
    (
        "an override that is none",
        ("-o runtime.curation_workers=64", "-o runtime.curation_worker=64"),
        "entrypoint: >-",
        "spec.entrypoint: the run would refuse its config: paper: runtime.curation_worker: unknown key; did you mean",
    ),
    (
        "a cluster inside the cluster",
        ("-o runtime.ray_address=auto", ""),
        "entrypoint: >-",
        "the run would start a cluster of its own inside the head: add -o runtime.ray_address=auto",
    ),
    (
        "too few GPUs for its run",
        ("-o runtime.autoscaling=true", "-o runtime.autoscaling=true -o runtime.train_workers=40"),
        "maxReplicas: 4",
        "training takes 40 workers with 1 CPU and 1 GPU each (runtime.train_workers), but 13 nodes",
    ),
    ("no store", ("--store /shared/runs", ""), "entrypoint: >-", "no --store is given"),
    ("no time to stop", ('value: "120"', 'value: "3"'), "env: &env", "RAY_JOB_STOP_WAIT_TIME_S is 3"),
]
