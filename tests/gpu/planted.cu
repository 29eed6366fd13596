// A kernel with a mistake, so that the tool that looks for such mistakes is seen to find it.
//   planted write   writes behind the end of its memory (memcheck)
//   planted race    two warps meet in shared memory without a barrier (racecheck)
#include <cstdio>
#include <cstring>

__global__ void write_behind(int* out) { out[threadIdx.x + 1] = 1; }

__global__ void race(int* out) {
    __shared__ int words[64];
    words[threadIdx.x] = static_cast<int>(threadIdx.x);
    out[threadIdx.x] = words[63 - threadIdx.x];
}

int main(int count, char** words) {
    int* out = nullptr;
    if (count != 2 || cudaMalloc(&out, 64 * sizeof(int)) != cudaSuccess) return 2;
    if (strcmp(words[1], "write") == 0) write_behind<<<1, 64>>>(out);
    else race<<<1, 64>>>(out);
    const cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaSuccess) fprintf(stderr, "%s\n", cudaGetErrorString(error));
    return 0;
}
