# The README's two commands in a container. Not built by CI yet.
#   docker build -t cirbench . && docker run --rm cirbench
#   docker build -t cirbench-test --target test . && docker run --rm cirbench-test
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS wheel
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip wheel --no-deps --wheel-dir /wheels /src

FROM ${PYTHON} AS test
RUN apt-get update && apt-get install -y --no-install-recommends chromium git \
    munge slurm-client slurmctld slurmd && rm -rf /var/lib/apt/lists/*
COPY . /src
COPY --from=wheel /wheels /wheels
WORKDIR /src
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[test]" && pip install --no-deps ./tests/plugin
CMD ["pytest"]

FROM ${PYTHON}
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl
WORKDIR /work
ENTRYPOINT ["bench"]
CMD ["run", "--method", "pic2word", "--task", "emoji"]
