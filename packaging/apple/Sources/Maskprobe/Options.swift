import CMaskprobe

/// How tokens are drawn and when the text ends. The defaults are llama.cpp's.
public struct Options: Sendable {
    /// nil: no limit.
    public var maxTokens: Int?
    /// The text ends before any of these.
    public var stop: [String] = []
    /// 0: always the most likely token.
    public var temperature: Float = 0.8
    public var topK = 40
    public var topP: Float = 0.95
    public var minP: Float = 0.05
    public var repeatPenalty: Float = 1
    /// nil: another one each time.
    public var seed: UInt32?
    /// GBNF with a rule named root.
    public var grammar: String?
    /// False: one token per pass. The text is the same.
    public var draft = true

    public init(maxTokens: Int? = nil, temperature: Float = 0.8, seed: UInt32? = nil, stop: [String] = []) {
        self.maxTokens = maxTokens
        self.temperature = temperature
        self.seed = seed
        self.stop = stop
    }

    /// A generation of the engine with these.
    func open(_ engine: OpaquePointer, _ prompt: [Int32]) throws -> OpaquePointer {
        try withCString(grammar, "a grammar") { grammar in
            try withCStrings(stop, "a stop string") { stop in
                var sampler = mp_sampler_default_params()
                sampler.temp = temperature
                sampler.top_k = Int32(clamping: topK)
                sampler.top_p = topP
                sampler.min_p = minP
                sampler.penalty_repeat = repeatPenalty
                sampler.seed = seed ?? sampler.seed
                sampler.grammar = grammar
                return try withUnsafePointer(to: sampler) { sampler in
                    try stop.withUnsafeBufferPointer { stop in
                        var params = mp_generation_default_params()
                        params.sampler = sampler
                        params.n_max = maxTokens.map(Int64.init) ?? -1
                        params.stop = stop.baseAddress
                        params.n_stop = Int32(stop.count)
                        params.draft = draft
                        var opened: OpaquePointer?
                        try check(mp_generation_open(engine, prompt, Int32(prompt.count), &params, &opened))
                        return opened!
                    }
                }
            }
        }
    }
}
