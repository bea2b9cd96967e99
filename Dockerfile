# The image of every node: Python, the packages of constraints.txt, and this code. Nothing in it is secret; passwords
# come from the environment of the nodes.
#
#   docker build --build-arg PYTHON=python:3.11-slim-bookworm@sha256:... --build-arg COMMIT=$(git rev-parse HEAD) \
#       -t REGISTRY/lumina-video .
#   docker push REGISTRY/lumina-video     # prints the digest for `lumina cluster check --fill IMAGE=...@sha256:...`
#
# Name the base by its digest, or another day builds another image. Ray wants the same Python on all nodes and on the
# machine that submits.
ARG PYTHON=python:3.11-slim-bookworm
FROM ${PYTHON}

# gcc and g++: torch.compile builds what starts its kernels. rsync: `ray up` copies files into the container. wget:
# KubeRay asks its nodes by it whether they are well.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev rsync wget \
    && rm -rf /var/lib/apt/lists/*

# The user that owns /shared/runs in ray_cluster.yaml and rayjob.yaml. `ray up` reads HOME from the image.
RUN useradd --create-home --uid 1000 lumina
ENV HOME=/home/lumina

# Packages go where the system's Python has them: a login shell, as `ray up` uses, forgets any other PATH.
WORKDIR /opt/lumina
COPY pyproject.toml constraints.txt ./
# PyPI has torch for CUDA; https://download.pytorch.org/whl/cpu is for nodes without GPUs.
ARG TORCH_INDEX=https://pypi.org/simple
# What the head needs to start and end nodes: boto3 on AWS; empty on Kubernetes.
ARG CLOUD=boto3
# `lumina serve --address` has its replicas on the nodes.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*project['dependencies'], *project['optional-dependencies']['serve'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --extra-index-url "${TORCH_INDEX}" \
        --requirement requirements.txt ${CLOUD}

COPY README.md LICENSE ./
COPY lumina lumina
COPY curation curation
COPY jobs jobs
COPY pipelines pipelines
RUN pip install --no-cache-dir --no-deps --editable . && python -m compileall -q .
# What a run's record says it was made from; build from a clean working tree.
ARG COMMIT=
RUN test -z "${COMMIT}" || printf '{"commit": "%s", "patch": ""}' "${COMMIT}" > CODE.json

USER lumina
WORKDIR /home/lumina
