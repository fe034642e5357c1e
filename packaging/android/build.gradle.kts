// An Android library module. The path of llama.cpp's sources comes from gradle.properties or -Pmaskprobe.llama=PATH.
plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

val llama = providers.gradleProperty("maskprobe.llama").orElse("")

android {
    namespace = "org.maskprobe"
    compileSdk = 35

    defaultConfig {
        minSdk = 28 // aligned_alloc in the C library
        consumerProguardFiles("consumer-rules.pro")
        ndk { abiFilters += "arm64-v8a" }
        externalNativeBuild {
            cmake {
                targets += "maskprobe_jni"
                arguments += listOf(
                    "-DCMAKE_BUILD_TYPE=Release", // also for debug builds of the app: unoptimised kernels are of no use
                    "-DANDROID_STL=c++_static",
                    "-DGGML_NATIVE=OFF",
                    "-DGGML_OPENMP=OFF",
                    "-DMASKPROBE_LLAMA_SOURCE=${llama.get()}",
                )
            }
        }
    }

    externalNativeBuild {
        cmake {
            path = file("CMakeLists.txt")
            version = "3.22.1"
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.7.3")
}
