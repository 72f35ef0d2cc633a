"""What a posterior is: layouts, parameterizations, affine maps, and the class in torch."""
