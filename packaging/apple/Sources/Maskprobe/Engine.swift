import CMaskprobe

/// Generates with a model: several tokens per pass, several texts in one pass.
public final class Engine: Sendable {
    /// Tokens that fit into each text.
    public let contextSize: Int

    private let model: Model
    private let stepper: Stepper

    /// - contextSize: tokens of each text, 0 for the model's, reduced to what memory holds.
    /// - parallel: texts at the same time, each with a cache of its own; more of them take turns.
    /// - threads: 0 for one for each fast core.
    /// - state: a file that keeps what is learned of the model; "" for its place in the user's caches; nil for none.
    ///
    /// Throws a `MaskprobeError` where memory is short, or an argument out of range.
    public init(
        _ model: Model, contextSize: Int = 0, parallel: Int = 1, threads: Int = 0, state: String? = nil
    ) throws {
        var room = mp_context_default_params()
        room.n_ctx = Int32(clamping: contextSize)
        room.n_sessions_max = Int32(clamping: parallel)
        room.n_threads = Int32(clamping: threads)
        var context: OpaquePointer?
        try check(mp_context_open(model.handle, &room, &context))
        defer { mp_context_free(context) } // the engine keeps it
        var engine: OpaquePointer?
        try withCString(state, "the path of the state") { state in
            var params = mp_engine_default_params()
            params.state = state
            try check(mp_engine_open(context, &params, &engine))
        }
        self.contextSize = Int(mp_context_n_ctx(context))
        self.model = model
        stepper = Stepper(engine!)
    }

    /// Ends all generations as cancelled, writes what was learned, and frees the cache. It waits for the pass under way.
    public func close() {
        stepper.close()
        stepper.waitUntilFreed()
    }

    deinit {
        stepper.close()
    }

    /// The tokens that follow the prompt. Throws a `MaskprobeError` at once where the prompt or the options are refused; what
    /// fails later comes out of the sequence.
    public func generate(_ prompt: [Int32], _ options: Options = Options()) throws -> Generation {
        let (running, stream) = try stepper.start(options, prompt)
        return Generation(running: running, stream: stream, engine: self)
    }

    public func generate(_ prompt: String, _ options: Options = Options()) throws -> Generation {
        try generate(model.tokenize(prompt), options)
    }

    /// The assistant's next message. What a conversation has in common with the one before is not evaluated again.
    public func chat(_ messages: [Message], _ options: Options = Options()) throws -> Generation {
        try generate(model.chatPrompt(messages), options)
    }
}
