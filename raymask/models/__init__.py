"""Networks: timm backbones with heads, their weights, precision and fused operators."""
