# One image for the SuperLink, the gate, the SuperNodes and the `corolla` command: what a container is, its
# command line says (compose.yaml). It holds no key, no certificate and no data.
#
#   docker build -t corolla .
#   docker build -t corolla --build-arg PIP_ARGS="--extra-index-url URL_OF_PYTORCHS_CPU_INDEX" .
#
# TORCH_SPEC  another torch than constraints.txt pins, e.g. "torch==2.9.1 torchvision==0.24.1"
# PIP_ARGS    passed to every `pip install`: an index of CPU or CUDA wheels, a mirror
# PART        all, or node: what a site needs, without Ray, report and predictors
# UID, GID    who runs in the container: those of the user who owns the mounted runs and keys
ARG BASE=python:3.11-slim

# The dependencies by themselves: other edits of pyproject.toml install nothing again.
FROM ${BASE} AS requirements
COPY pyproject.toml scripts/node_requirements.py ./
ARG PART=all
RUN python3 node_requirements.py "${PART}" > /requirements.txt

FROM ${BASE}
# The environment belongs to root: code that a federation sends cannot change it.
RUN python3 -m venv /opt/corolla
ENV PATH=/opt/corolla/bin:${PATH} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

WORKDIR /app
COPY constraints.txt ./
ARG TORCH_SPEC=""
ARG PIP_ARGS=""
# Torch first and alone: the biggest layer by far depends on constraints.txt and these lines only.
RUN if [ -n "${TORCH_SPEC}" ]; then \
      grep -v -i -E '^(torch|torchvision|triton|nvidia-|cuda-)' constraints.txt > /opt/constraints.txt; \
    else cp constraints.txt /opt/constraints.txt; fi \
 && pip install ${PIP_ARGS} --constraint /opt/constraints.txt ${TORCH_SPEC:-torch torchvision}

COPY --from=requirements /requirements.txt /opt/
RUN pip install ${PIP_ARGS} --constraint /opt/constraints.txt --requirement /opt/requirements.txt

COPY scripts/fleet_gate.py scripts/superlink.sh scripts/supernode.sh /usr/local/bin/
COPY LICENSE README.md pyproject.toml ./
COPY conf ./conf
COPY src ./src
COPY strategies ./strategies
COPY clients ./clients
COPY engines ./engines
# Editable: `corolla run` submits the application from its root, which is this folder.
RUN pip install ${PIP_ARGS} --no-deps --editable .

# Flower keeps the applications it receives in FLWR_HOME. Nothing is installed when one arrives,
# nothing is reported to anybody.
ENV FLWR_HOME=/state/flwr \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    RAY_USAGE_STATS_ENABLED=0

ARG UID=1000
ARG GID=1000
RUN if [ "${UID}" -eq 0 ]; then echo "UID=0: build for an ordinary user" >&2; exit 1; fi \
 && groupadd --non-unique --gid "${GID}" corolla \
 && useradd --non-unique --uid "${UID}" --gid "${GID}" --create-home --shell /usr/sbin/nologin corolla \
 && mkdir /state /runs \
 && chown corolla:corolla /state /runs
USER corolla
WORKDIR /state
CMD ["corolla", "--help"]
