// swift-tools-version: 5.9
import PackageDescription

// On Apple's systems the core is the XCFramework that build_xcframework.sh makes. On Linux it is an installed libmaskprobe
// that pkg-config finds.
#if os(Linux)
let core = Target.systemLibrary(name: "CMaskprobe", pkgConfig: "maskprobe")
let libraries: [LinkerSetting] = []
#else
let core = Target.binaryTarget(name: "CMaskprobe", path: "build/CMaskprobe.xcframework")
let libraries: [LinkerSetting] = [
    .linkedLibrary("c++"), .linkedFramework("Accelerate"), .linkedFramework("Foundation"),
    .linkedFramework("Metal"), .linkedFramework("MetalKit"),
]
#endif

let package = Package(
    name: "Maskprobe",
    platforms: [.macOS("13.3"), .iOS("16.4")],
    products: [
        .library(name: "Maskprobe", targets: ["Maskprobe"]),
        .executable(name: "maskprobe-chat", targets: ["maskprobe-chat"]),
    ],
    targets: [
        core,
        .target(name: "Maskprobe", dependencies: ["CMaskprobe"], linkerSettings: libraries),
        .executableTarget(name: "maskprobe-chat", dependencies: ["Maskprobe"]),
    ]
)
