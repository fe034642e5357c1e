import CMaskprobe

/// A message of a conversation; roles are "system", "user" and "assistant".
public struct Message: Sendable {
    public var role, content: String

    public init(role: String, content: String) {
        self.role = role
        self.content = content
    }
}

/// A GGUF model.
public final class Model: @unchecked Sendable { // the library's functions for it may be called from any thread
    /// For instance "llama 1B Q4_0".
    public let description: String
    /// The instruction set of the kernels, or "llama.cpp"; and the share of the weights they compute, or why.
    public let kernels, kernelsReason: String
    /// What is limited with this model, or "".
    public let note: String

    let handle: OpaquePointer

    /// Opens the file. That takes seconds: not on the main actor.
    ///
    /// - gpuLayers: on the GPU, -1 for all. llama.cpp's kernels compute these.
    /// - progress: is called with 0...1 in this thread; false ends it.
    ///
    /// Throws a `MaskprobeError` where the file is missing, no sound model, of a kind that is not run, or does not fit.
    public init(path: String, gpuLayers: Int = -1, progress: ((Float) -> Bool)? = nil) throws {
        var params = mp_model_default_params()
        params.n_gpu_layers = Int32(clamping: gpuLayers)
        let watcher = progress.map(Watcher.init)
        if let watcher {
            params.progress = { Unmanaged<Watcher>.fromOpaque($1!).takeUnretainedValue().progress($0) }
            params.progress_user_data = Unmanaged.passUnretained(watcher).toOpaque()
        }
        var opened: OpaquePointer?
        try withExtendedLifetime(watcher) {
            try withCString(path, "the path of a model") { try check(mp_model_open($0, &params, &opened)) }
        }
        handle = opened!
        var info = mp_model_info()
        mp_model_get_info(handle, &info)
        description = text(of: info.description)
        kernels = text(of: info.kernels)
        kernelsReason = text(of: info.kernels_reason)
        note = text(of: info.note)
    }

    deinit {
        mp_model_free(handle)
    }

    /// Text to tokens. `addSpecial` puts the token for the beginning where the model wants it; `parseSpecial` reads the
    /// text of special tokens as these.
    public func tokenize(_ text: String, addSpecial: Bool = true, parseSpecial: Bool = false) throws -> [Int32] {
        try text.withCString { bytes in
            var n: Int32 = 0
            try check(mp_tokenize(handle, bytes, text.utf8.count, addSpecial, parseSpecial, nil, 0, &n))
            var tokens = [Int32](repeating: 0, count: Int(n))
            try check(mp_tokenize(handle, bytes, text.utf8.count, addSpecial, parseSpecial, &tokens, n, &n))
            return tokens
        }
    }

    /// The prompt for the assistant's next message, in the format of llama.cpp's list that fits the model's template.
    public func chatPrompt(_ messages: [Message]) throws -> [Int32] {
        let prompt = try withCStrings(messages.map(\.role), "a role") { roles in
            try withCStrings(messages.map(\.content), "a message") { contents in
                let count = Int32(messages.count)
                var n: Int32 = 0
                try check(mp_chat_format(handle, roles, contents, count, true, nil, 0, &n))
                var bytes = [CChar](repeating: 0, count: Int(n))
                try check(mp_chat_format(handle, roles, contents, count, true, &bytes, n, &n))
                return String(decoding: bytes.map(UInt8.init(bitPattern:)), as: UTF8.self)
            }
        }
        return try tokenize(prompt, parseSpecial: true)
    }
}

private final class Watcher {
    let progress: (Float) -> Bool

    init(progress: @escaping (Float) -> Bool) {
        self.progress = progress
    }
}
