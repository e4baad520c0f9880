package configs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	"sigs.k8s.io/yaml"
)

// Limits on what is read at all. The longest config seen in practice is a few
// hundred kilobytes of write_files, which is few tokens; the limits keep a
// hostile file from costing more than a moment.
const (
	maxBytes  = 1 << 20
	maxTokens = 20_000
	maxDepth  = 32
)

// document is one YAML document on its way to a Go value: its values as
// sigs.k8s.io/yaml reads them, and where each of them stands.
type document struct {
	name     string
	data     []byte
	value    any // the document as encoding/json decodes it, numbers as json.Number
	spots    map[string]spot
	problems []*Problem
	warnings []*Problem
	misfits  []string // paths of values that did not fit and were left out
}

// spot is where a value stands and, for a scalar, how it is written there. A
// mapping or list in block style is found by its key.
type spot struct {
	position
	key   position // of the key, where there is one
	text  string
	plain bool // a number, boolean or null, not text
}

// position counts from 1.
type position struct{ line, col int }

func newDocument(name string, data []byte) *document {
	// The byte order mark some editors write is no part of the text.
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	return &document{name: name, data: data, spots: map[string]spot{}}
}

// broken reports whether a problem was found so far.
func (d *document) broken() bool { return len(d.problems) > 0 }

// err is nil or Problems.
func (d *document) err() error {
	if !d.broken() {
		return nil
	}
	return Problems(flat(d.problems))
}

func flat(ps []*Problem) []Problem {
	var out []Problem
	for _, p := range ps {
		out = append(out, *p)
	}
	return sorted(out)
}

// fail adds a problem about the text itself; line 0 means the whole file.
func (d *document) fail(line, col int, format string, args ...any) *Problem {
	p := &Problem{File: d.name, Line: line, Col: col, Message: fmt.Sprintf(format, args...)}
	d.problems = append(d.problems, p)
	return p
}

// read parses the text without regard to what it should hold. Afterwards value
// and spots are set; false means that nothing more can be said about the file.
func (d *document) read() (ok bool) {
	defer func() {
		// The parsers are someone else's code and see hostile files; a
		// panic in one is one more way of saying that this is not YAML.
		if r := recover(); r != nil {
			d.fail(0, 0, "not YAML: the parser gave up (%v)", r)
			ok = false
		}
	}()
	if len(d.data) > maxBytes {
		d.fail(0, 0, "%d bytes long, the limit is %d", len(d.data), maxBytes)
		return false
	}
	if i := invalidUTF8(d.data); i >= 0 {
		line, col := d.lineCol(i)
		d.fail(line, col, "byte 0x%02x is not UTF-8", d.data[i])
		return false
	}
	// goccy/go-yaml v1.19.2 counts CR LF after a comment as two lines.
	tokens := lexer.Tokenize(strings.ReplaceAll(string(d.data), "\r\n", "\n"))
	if len(tokens) > maxTokens {
		d.fail(0, 0, "more than %d YAML tokens", maxTokens)
		return false
	}
	if d.refuseNesting(tokens); d.broken() {
		return false
	}
	body, ok := d.parse(tokens)
	if !ok {
		return false
	}
	// Anchors are refused before anything expands them.
	d.refuseAliases(tokens)
	if d.broken() {
		return false
	}
	js, err := yaml.YAMLToJSON(d.data)
	if err != nil {
		d.syntax(err)
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(js))
	dec.UseNumber()
	if err := dec.Decode(&d.value); err != nil {
		d.fail(0, 0, "internal error: YAML as JSON: %v", err)
		return false
	}
	if body != nil {
		d.index(body, d.value, d.root(), 0)
	}
	return true
}

// parse gives the only document's node, nil when it is empty.
func (d *document) parse(tokens token.Tokens) (body ast.Node, ok bool) {
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return nil, false
	}
	var docs []*ast.DocumentNode
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc)
		}
	}
	switch len(docs) {
	case 0:
		return nil, true
	case 1:
		return docs[0].Body, true
	}
	pos := docs[1].Body.GetToken().Position
	d.fail(pos.Line, pos.Column, "a second YAML document: only one is allowed in this file")
	return nil, false
}

// syntax adds the error of either parser, with a position when it has one.
func (d *document) syntax(err error) {
	var placed interface {
		error
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &placed) && placed.GetToken() != nil {
		pos := placed.GetToken().Position
		d.fail(pos.Line, pos.Column, "not YAML: %s", placed.GetMessage())
		return
	}
	msg := err.Error()
	if m := regexp.MustCompile(`(?s)yaml: (?:line (\d+): )?(.*)$`).FindStringSubmatch(msg); m != nil {
		line, _ := strconv.Atoi(m[1])
		d.fail(line, min(line, 1), "not YAML: %s", m[2])
		return
	}
	d.fail(0, 0, "not YAML: %s", msg)
}

// refuseNesting stops deep flow collections before the parser, whose time
// grows with the square of the depth, sees them.
func (d *document) refuseNesting(tokens token.Tokens) {
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		}
		if depth > maxDepth {
			d.fail(t.Position.Line, t.Position.Column, "nested more than %d levels deep", maxDepth)
			return
		}
	}
}

func (d *document) refuseAliases(tokens token.Tokens) {
	for _, t := range tokens {
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			d.fail(t.Position.Line, t.Position.Column, "YAML anchors, aliases and merge keys are not allowed").
				Hint = "write the value out at every place it is needed"
		case token.TagType:
			p := d.fail(t.Position.Line, t.Position.Column, "YAML tag %q is not allowed", t.Value)
			if t.Value == "!!binary" {
				p.Hint = `drop the tag and, in write_files, set "encoding: b64"`
			}
		}
	}
}

// index records where everything below n stands and reports what is wrong with
// the text whatever the types: duplicate keys, and places that the two
// parsers read differently.
func (d *document) index(n ast.Node, v any, a at, depth int) {
	if depth > maxDepth {
		a.errorf("nested more than %d levels deep", maxDepth)
		return
	}
	tok := n.GetToken()
	here := position{tok.Position.Line, tok.Position.Column}
	s := d.spots[a.path]
	if s.key == (position{}) || isScalar(v) {
		s.position = here
	}
	_, isText := v.(string)
	s.text, s.plain = tok.Value, !isText
	d.spots[a.path] = s
	switch n := n.(type) {
	case *ast.MappingNode:
		d.indexMapping(n.Values, v, a, depth)
	case *ast.MappingValueNode:
		d.indexMapping([]*ast.MappingValueNode{n}, v, a, depth)
	case *ast.SequenceNode:
		list, ok := v.([]any)
		if !ok || len(list) != len(n.Values) {
			a.ambiguous()
			return
		}
		for i, item := range n.Values {
			d.index(item, list[i], a.item(i), depth+1)
		}
	default:
		if !isScalar(v) {
			a.ambiguous()
		}
	}
}

func (d *document) indexMapping(pairs []*ast.MappingValueNode, v any, a at, depth int) {
	m, ok := v.(map[string]any)
	if !ok {
		a.ambiguous()
		return
	}
	count := map[string]int{}
	for _, pair := range pairs {
		count[pair.Key.GetToken().Value]++
	}
	first := map[string]int{}
	for _, pair := range pairs {
		tok := pair.Key.GetToken()
		key := tok.Value
		child := a.key(key)
		here := position{tok.Position.Line, tok.Position.Column}
		line, seen := first[key]
		if !seen {
			first[key] = here.line
		}
		d.spots[child.path] = spot{position: here, key: here}
		switch value, ok := m[key]; {
		case seen:
			child.onKey().errorf("already set on line %d", line)
		case !ok:
			child.onKey().errorf("the key is not read as text").Hint = fmt.Sprintf("quote it: %q", key)
		case count[key] == 1: // otherwise the value belongs to the last one
			d.index(pair.Value, value, child, depth+1)
		}
	}
	if len(first) != len(m) && !d.broken() {
		a.ambiguous()
	}
}

func isScalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

func (d *document) lineCol(i int) (line, col int) {
	before := string(d.data[:i])
	return strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[strings.LastIndex(before, "\n")+1:]) + 1
}
