if __name__ == "triton_kernels":
    raise ImportError("this folder is contrastile.triton_kernels; import it under that name")
