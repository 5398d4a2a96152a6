"""The paper, section 4: the temporal transformer, the motion module and its way into a UNet, the adapters and the objective."""
