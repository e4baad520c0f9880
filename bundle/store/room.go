package store

import "fmt"

// RoomError says that a directory's file system has too little space left.
type RoomError struct {
	Dir        string
	Need, Free int64 // bytes
}

func (e *RoomError) Error() string {
	return fmt.Sprintf("%s: %d MB needed, %d MB free", e.Dir, e.Need/1e6, e.Free/1e6)
}

// Hint names the ways out.
func (e *RoomError) Hint() string {
	return "make room there, or choose another directory; what was there before is untouched"
}

// Room refuses, with a RoomError, to begin what does not fit: need bytes below dir.
func Room(dir string, need int64) error {
	if have, ok := free(dir); ok && have < need {
		return &RoomError{Dir: dir, Need: need, Free: have}
	}
	return nil
}
