"""Train a model: ``accelerate launch train.py --config configs/denoiser.yaml --data.slides PATH``, say."""

from wsigen.cli.main import train

if __name__ == "__main__":
    train()
