#pragma once
#define BPF_CLASS(code) ((code) & 0x07)
