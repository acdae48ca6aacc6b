# The image for GPU hosts: `docker build -t shardfm .`. CUDA's libraries come with the pinned requirements; the host
# needs NVIDIA's driver and container toolkit. `docker build --build-arg FLAVOR=cpu -t shardfm:cpu .` makes one without GPUs.
FROM python:3.11-slim-bookworm

ARG FLAVOR=gpu

# procps: run_host.sh passes signals on with pkill. tini is not needed: run_host.sh waits for what it starts.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends procps libgomp1 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/shardfm
# The requirements change less often than the code: their layer is used again.
COPY requirements-cpu.txt requirements-gpu.txt ./
# --no-deps: the file is complete, and torchrec's metadata demands the CUDA build of fbgemm-gpu.
# A torch that is a CUDA build links to CUDA's libraries even where there is no GPU.
RUN pip install --no-cache-dir --no-deps -r requirements-${FLAVOR}.txt \
 && { python -c 'import torch' 2>/dev/null \
      || { grep -E '^(cuda|nvidia|triton)' requirements-gpu.txt > /tmp/cuda.txt \
           && pip install --no-cache-dir --no-deps -r /tmp/cuda.txt; }; }
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY data data
COPY launch launch
COPY trainer trainer
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
 && useradd --create-home --uid 1000 shardfm
USER shardfm

# One core of arithmetic threads for each worker, unless the job says otherwise.
ENV OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
# As process 1 it gets the container's SIGTERM, and has the workers save and stop.
ENTRYPOINT ["bash", "launch/cluster/run_host.sh"]
CMD ["launch/train.py", "experiment=adult", "run_dir=/tmp/adult"]
