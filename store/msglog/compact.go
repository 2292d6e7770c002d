package msglog

import "strings"

const compactSuffix = ".compact"

func isCompaction(name string) bool { return strings.HasSuffix(name, compactSuffix) }

func (l *Log) compact() {}
