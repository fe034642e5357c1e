import Foundation

/// Calls `body` with the texts as C has them, which are valid until it returns.
func withCStrings<Result>(
    _ texts: [String], _ what: String, _ body: ([UnsafePointer<CChar>?]) throws -> Result
) throws -> Result {
    if texts.contains(where: { $0.utf8.contains(0) }) { // C would see its beginning only
        throw MaskprobeError(.argument, "\(what) must not contain a NUL character")
    }
    let copies = texts.map { strdup($0) }
    defer { copies.forEach { free($0) } }
    return try body(copies.map { UnsafePointer($0) })
}

/// The same for one text, which may be nil.
func withCString<Result>(
    _ text: String?, _ what: String, _ body: (UnsafePointer<CChar>?) throws -> Result
) throws -> Result {
    try withCStrings(text.map { [$0] } ?? [], what) { try body($0.first ?? nil) }
}

/// What a field like `char name[128]` holds, which Swift sees as a tuple.
func text<Field>(of field: Field) -> String {
    withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
}
