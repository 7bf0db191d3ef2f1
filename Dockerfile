# finetune-cli in a container, for a CPU or for NVIDIA GPUs; docker and podman build it. Rows and results are in the folder that is
# mounted at /data, downloaded models in the volume at /cache.
#
#   docker build --tag finetune-cli .
#   docker run --rm -it --volume "$PWD:/data" --volume finetune-cache:/cache finetune-cli
#
#   docker build --tag finetune-cli:cuda --build-arg TORCH_BACKEND=cu130 .
#   docker run --rm -it --gpus all --volume "$PWD:/data" --volume finetune-cache:/cache finetune-cli:cuda run recipe.yaml
#
# Results belong to the user of the container, root; for files of your own add: --user "$(id -u):$(id -g)"

FROM python:3.12-slim

# The PyTorch build: cpu, or the CUDA version of the machine's driver such as cu126 or cu130. Its wheel brings CUDA's libraries.
ARG TORCH_BACKEND=cpu
# Optional parts, such as [gguf,onnx] to export for Ollama and onnxruntime.
ARG EXTRAS=

RUN pip install --no-cache-dir uv

# Triton makes GPU kernels with a C compiler when a training begins; Python's headers are there.
RUN if [ "${TORCH_BACKEND}" != cpu ]; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi

COPY pyproject.toml README.md LICENSE finetune_cli.py /src/
COPY finetune /src/finetune
RUN uv pip install --system --no-cache --torch-backend "${TORCH_BACKEND}" "/src${EXTRAS}"

# A home that every user of the container can write to: caches of this program, the Hub and PyTorch.
RUN mkdir --mode 1777 /cache /data
ENV HOME=/cache \
    FINETUNE_CLI_CACHE=/cache/finetune-cli \
    HF_HOME=/cache/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /cache
WORKDIR /data

ENTRYPOINT ["finetune-cli"]
